"""The states of an instance, and who moves it from one to the next."""
