"""The firmware's version. An image build writes this file anew, so that an image says what it was built as."""

VERSION = "0.1.0"
