"""The side of the origins: connections, responses, and a pool for each upstream."""
