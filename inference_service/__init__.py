"""The gRPC service that owns the model: engine, tokenizer, chat template, validation and admission."""
