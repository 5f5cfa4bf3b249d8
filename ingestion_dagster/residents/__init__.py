"""Residents: spreadsheets from a drop folder into the Here to Help API, and what became of each row back to the people who sent them."""
