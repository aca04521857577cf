//! The gateway: route, admit, activate, balance, proxy, respond.
