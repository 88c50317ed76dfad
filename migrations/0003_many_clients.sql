-- A model is fetched by whoever has a token of the run's: without this, a walk over the roster for each fetch.
CREATE INDEX clients_by_token ON clients (run, token_sha256);
