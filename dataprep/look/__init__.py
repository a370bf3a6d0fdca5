"""Looking into the flow: what is seen at each stop, and how it is shown.

    record ──▶ sample ──▶ tokens ──▶ pack ──▶ batch        one view of each (view.py)
                              ╰──▶ terminal, HTML page, web viewer
"""
