"""Bridges to other toolkits. Each needs its own extra; importing this package loads none of them."""
