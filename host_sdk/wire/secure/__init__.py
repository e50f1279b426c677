"""What both ends of the secure control plane share: certificates, and TLS 1.3 over memory."""
