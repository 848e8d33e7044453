"""Which policy is better, by how much, and how sure is that? Experiments in virtual time, see __main__.py."""
