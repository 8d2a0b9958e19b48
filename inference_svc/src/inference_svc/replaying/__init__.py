"""A replica that answers from recordings: a fake for the tests of others, with the contract and no model."""
