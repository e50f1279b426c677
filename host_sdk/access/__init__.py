"""Access to appliances that ask who is there: a lab's authority, identities, the client's side of secure control."""
