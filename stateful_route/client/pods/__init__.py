"""The pods of the services as a client knows them."""
