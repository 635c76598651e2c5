"""Deciding and cutting: ratios, plans, locks, and the surgery that makes matrices smaller."""
