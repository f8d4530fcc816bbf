//! The announcement of an upload: JSON and identity.
