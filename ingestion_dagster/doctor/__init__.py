"""What is wrong with an installation: checks of everything it needs, each by itself, none of which leaves anything behind."""
