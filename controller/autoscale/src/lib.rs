//! How many replicas a function needs: a pure decision.
