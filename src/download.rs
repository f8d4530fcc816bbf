//! Fetches an archive: URL policy, size limit, deadlines, retries.
