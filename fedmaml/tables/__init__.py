"""Tables on the terminal, a file for each thing that is shown."""
