"""The pruned forward pass: vision, prefill and decode over the model's own layers."""
