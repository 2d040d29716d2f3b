"""The three LALMs behind one narrow interface, and the tiny bases of the same classes."""
