"""Many appliances as one: who they are, how they are, which one is asked, and what is done when it does not answer."""
