"""Tests Lodestream on a machine with a GPU and TensorRT-LLM: `python -m benchmarks.gpu_smoke`.

surface.py       what the installed library looks like; runs as a process of its own
assumptions.py   what our code takes it to look like, out of that code
differences.py   one beside the other
checkpoint.py    a tiny model with random weights
building.py      engines out of it, by `lodestream engine build`
live.py          how an engine behaves without our servers; runs in its own process
dead_worker.py   who notices that the engine's worker process is gone; a process of its own
expected.py      how the double of our tests behaves
transports.py         both servers on the engine, with the same requests over both
load.py          tokens a second through both transports
suite.py         the contract of all backends, for pytest
steps.py         one step after the other; one that fails stops no other
report.py        the file to send back
"""
