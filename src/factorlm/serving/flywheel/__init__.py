"""From use to better factors: rounds of collecting, training, testing, promoting, and taking back."""
