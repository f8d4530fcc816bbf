//! The poll loop: dispatch, settle, commit, pause, drain.
