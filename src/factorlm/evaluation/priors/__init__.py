"""What a distribution over models is good for, measured: the parts of the suite `prior`."""
