"""What guiding by meaning is worth: signals, control, grids, ablations, time; and how shipped guides are made."""
