"""Life events: death registrations from GRO's flat files, held encrypted until the events platform says that everybody has them."""
