"""The side of the clients: sockets, requests, responses."""
