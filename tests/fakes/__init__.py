"""Fakes with behaviour: each passes the suite its real twin passes, or is the other half of a real thing under test."""
