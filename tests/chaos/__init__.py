"""Faults between the client and `policyctl serve`, under random plans: nothing is lost, doubled, leaked or let in."""
