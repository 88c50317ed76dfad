-- Where max_weight_share lowered the weights of a round: an app::api::LoweredWeights. NULL: nowhere.
ALTER TABLE rounds ADD COLUMN lowered_weights TEXT CHECK (json_valid(lowered_weights));
