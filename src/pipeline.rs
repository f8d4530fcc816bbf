//! One record's way, from its bytes to a published result or a dead letter.
