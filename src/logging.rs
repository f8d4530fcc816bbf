//! Log lines: text or JSON, without secrets.
