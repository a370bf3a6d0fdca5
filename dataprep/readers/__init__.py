"""Readers of raw formats: the bytes of one record become a Record. One small file per format."""
