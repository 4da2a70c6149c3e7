"""What a policy is: the strict file model, the lenient normal form, the JSON Schema."""
