"""Dashboard metric files (JSON) into the headline and time series tables."""
