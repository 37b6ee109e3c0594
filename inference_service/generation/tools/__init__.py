"""Tools: how a conversation offers them, and how calls are found in what the model writes.

`ToolCallParser` splits the text of a choice into content and calls, `call_grammar` makes a model call
a tool, and `ChatTemplate.render` of the module `prompt` tells it of them, in its template's own format
(`ToolFormat`).
"""
