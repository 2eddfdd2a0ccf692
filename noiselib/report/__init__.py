"""What people read: plans, ledgers, calibrations as text and as data."""
