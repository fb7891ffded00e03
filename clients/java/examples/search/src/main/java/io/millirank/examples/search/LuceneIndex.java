package io.millirank.examples.search;

import com.google.gson.JsonObject;
import com.google.gson.JsonParser;
import java.io.BufferedReader;
import java.io.IOException;
import java.nio.file.Files;
import java.nio.file.Path;
import java.util.ArrayList;
import java.util.List;
import org.apache.lucene.analysis.Analyzer;
import org.apache.lucene.analysis.en.EnglishAnalyzer;
import org.apache.lucene.document.Document;
import org.apache.lucene.document.Field;
import org.apache.lucene.document.StoredField;
import org.apache.lucene.document.TextField;
import org.apache.lucene.index.DirectoryReader;
import org.apache.lucene.index.IndexWriter;
import org.apache.lucene.index.IndexWriterConfig;
import org.apache.lucene.index.StoredFields;
import org.apache.lucene.search.IndexSearcher;
import org.apache.lucene.search.Query;
import org.apache.lucene.search.ScoreDoc;
import org.apache.lucene.store.ByteBuffersDirectory;
import org.apache.lucene.store.Directory;
import org.apache.lucene.util.QueryBuilder;

/** The first stage: an inverted index in memory, searched with BM25 (Lucene's default similarity). */
final class LuceneIndex implements AutoCloseable {
  private final Analyzer analyzer = new EnglishAnalyzer();
  private final Directory directory = new ByteBuffersDirectory();
  private final DirectoryReader reader;
  private final IndexSearcher searcher;

  /** Indexes a file of JSON lines with {@code id} and {@code text}, as {@code millirank collection} writes it. */
  LuceneIndex(Path file) throws IOException {
    try (IndexWriter writer = new IndexWriter(directory, new IndexWriterConfig(analyzer));
        BufferedReader lines = Files.newBufferedReader(file)) {
      String line;
      while ((line = lines.readLine()) != null) {
        JsonObject row = JsonParser.parseString(line).getAsJsonObject();
        Document document = new Document();
        document.add(new StoredField("id", row.get("id").getAsString()));
        document.add(new TextField("text", row.get("text").getAsString(), Field.Store.YES));
        writer.addDocument(document);
      }
    }
    this.reader = DirectoryReader.open(directory);
    this.searcher = new IndexSearcher(reader);
  }

  int size() {
    return reader.numDocs();
  }

  /** The best {@code count} documents that have any word of {@code question}, best first. */
  List<Hit> search(String question, int count) throws IOException {
    Query query = new QueryBuilder(analyzer).createBooleanQuery("text", question);
    if (query == null) {
      return List.of(); // nothing but stop words
    }
    StoredFields stored = searcher.storedFields();
    List<Hit> hits = new ArrayList<>();
    for (ScoreDoc found : searcher.search(query, count).scoreDocs) {
      Document document = stored.document(found.doc);
      hits.add(new Hit(document.get("id"), document.get("text"), found.score));
    }
    return hits;
  }

  @Override
  public void close() throws IOException {
    reader.close();
    directory.close();
    analyzer.close();
  }
}
