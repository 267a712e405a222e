"""The wire protocol, sans-I/O: bytes in, frames and typed requests out. No socket, no clock, no log."""
