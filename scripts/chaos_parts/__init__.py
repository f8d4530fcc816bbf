"""The parts of `scripts/chaos`: what is announced, the server of archives, the workers, what is done to them, the broker,
and the ledger that says in the end whether anything was lost."""
