-- Models of deleted runs whose files are still to be removed: a coordinator that dies in between removes them at its next start,
-- unless another run has the same model.
CREATE TABLE removed_models (
    sha256 BLOB PRIMARY KEY CHECK (length(sha256) = 32)
) STRICT, WITHOUT ROWID;
