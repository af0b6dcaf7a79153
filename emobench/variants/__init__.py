"""The emotional variants as data, and the shim that injects them into tau-bench's user."""
