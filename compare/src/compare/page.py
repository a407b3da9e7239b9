def html(rows):
    return "<html></html>"
