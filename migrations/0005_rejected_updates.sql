-- An update whose norm is out of proportion to the others of its round is left out: why, and how many they were.
ALTER TABLE contributions ADD COLUMN rejected TEXT;
ALTER TABLE rounds ADD COLUMN rejected INTEGER NOT NULL DEFAULT 0 CHECK (rejected >= 0);
