"""Red teaming: attempts to make a model do what it should not, judged by judges whose errors are known."""
