"""Telling people: what an alert says, where it may be sent, and who sends it."""
