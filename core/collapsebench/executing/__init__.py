"""Executing."""
