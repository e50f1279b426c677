"""What a host needs to talk to network-attached inference appliances."""
