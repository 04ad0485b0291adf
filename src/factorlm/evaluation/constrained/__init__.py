"""Several constraints at once: by factors, by one fine-tuned model, by one instruction; for the suite factorised."""
