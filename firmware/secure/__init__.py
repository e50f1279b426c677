"""The secure control plane's answering side: streams of TLS records, and the gate that they lead to."""
