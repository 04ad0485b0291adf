"""The command line: one file a command, each a call to a public function."""
