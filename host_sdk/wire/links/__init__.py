"""What carries frames: AF_XDP, AF_PACKET, UDP and memory behind one small protocol, batches in and out."""
