"""Looking into the flow: what is seen at each stop (view.py), and how it is shown.

Stops: record ──▶ sample ──▶ tokens ──▶ pack ──▶ batch. Shown: terminal, HTML page, web viewer.
"""
